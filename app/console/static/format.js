/** Formats times and durations, the same in both languages. */

/** A time of day: `14:03:02`. */
export function clockTime(ms) {
  return new Date(ms).toLocaleTimeString("en-GB", { hour12: false });
}

/** A duration: `40 ms`, `0.4 s`, `2 m 05 s`, `1 h 02 m`. */
export function duration(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 0.1) return `${Math.round(ms)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const rounded = Math.round(seconds);
  const pad = (number) => String(number).padStart(2, "0");
  if (rounded < 3600) return `${Math.floor(rounded / 60)} m ${pad(rounded % 60)} s`;
  return `${Math.floor(rounded / 3600)} h ${pad(Math.floor((rounded % 3600) / 60))} m`;
}

/** The time left until a deadline: `4:59`. */
export function countdown(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/** The age of a run: `5 m`, `2 h`, `3 d`; null for less than a minute. */
export function age(ms) {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return null;
  if (minutes < 60) return `${minutes} m`;
  return minutes < 24 * 60 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} d`;
}
