// The errors that the client throws.

/** The service answered with an error: an HTTP status, an error code and a message. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfterMs: number = 0,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

/** The connection broke and could not be restored within the retry timeout. The run itself continues. */
export class ConnectionLost extends Error {
  constructor(message: string) {
    super(message);
    this.name = "ConnectionLost";
  }
}

/** @internal The bytes are not an event stream of the service: resume after the last valid event. */
export class StreamDamaged extends Error {}

/** @internal The message of an error, with that of its cause. */
export function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error ? `: ${error.cause.message}` : "";
  return error.message + cause;
}
