"""Memory drivers: one face over whatever remembers, chosen by MEMORY_DRIVER.

from memory_service.drivers import get_memory_driver

driver = get_memory_driver()
driver.store(user_id="user123", content="User said hello")
memories = driver.recall(user_id="user123", query="greeting")
"""

from __future__ import annotations

from memory_service.drivers.base import AwaitedDriver, BaseMemoryDriver
from memory_service.drivers.manager import MemoryDriverManager

__all__ = ["AwaitedDriver", "BaseMemoryDriver", "MemoryDriverManager", "get_memory_driver", "set_memory_driver"]


def get_memory_driver() -> BaseMemoryDriver:
    """Return the driver in use: that of MEMORY_DRIVER, unless another was set. The same one each time.

    Raises ValueError for a name that is not known.
    """
    return MemoryDriverManager.get_driver()


def set_memory_driver(name: str) -> BaseMemoryDriver:
    """Use another driver from now on, and return it; the former stays open for those who hold it.

    Raises ValueError for a name that is not known; then nothing changes.
    """
    return MemoryDriverManager.set_driver(name)
