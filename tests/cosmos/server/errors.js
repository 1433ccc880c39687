"use strict";

const CODES = {
  400: "BadRequest",
  404: "NotFound",
  409: "Conflict",
  412: "PreconditionFailed",
  413: "RequestEntityTooLarge",
  500: "InternalServerError",
};

/** What a client is answered with: a status, the protocol's word for it, a message, sometimes a substatus. */
class CosmosError extends Error {
  constructor(status, message, substatus) {
    super(message);
    this.status = status;
    this.substatus = substatus;
  }

  get body() {
    return { code: CODES[this.status] || "Error", message: this.message };
  }
}

const badRequest = (message, substatus) => new CosmosError(400, message, substatus);
const itemNotFound = () => new CosmosError(404, "Entity with the specified id does not exist in the system.");
const ownerNotFound = () => new CosmosError(404, "Owner resource does not exist", 1003);
const conflict = (message) => new CosmosError(409, message);
const preconditionFailed = () =>
  new CosmosError(412, "Operation cannot be performed because one of the specified precondition is not met.");
const tooLarge = () => new CosmosError(413, "Request size is too large");

module.exports = { CosmosError, badRequest, itemNotFound, ownerNotFound, conflict, preconditionFailed, tooLarge };
