"""Run the service: `python run_server.py`. The same as `memory-service serve`."""

from memory_service.cli import main

if __name__ == "__main__":
    main(["serve"])
