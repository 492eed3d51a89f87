/** Named timers: scheduling a name again restarts its timer, so that an action is not pending twice. */
export class Timers {
  constructor() {
    this.pending = new Map();
    this.isStopped = false;
  }

  /** Call `action` after `delayMs`. */
  schedule(name, delayMs, action) {
    clearTimeout(this.pending.get(name));
    if (!this.isStopped) this.pending.set(name, setTimeout(action, delayMs));
  }

  /** Call `action` now and then `delayMs` after each call has finished, but only while the page is visible. */
  async poll(name, delayMs, action) {
    if (!document.hidden) await action();
    this.schedule(`poll ${name}`, delayMs, () => this.poll(name, delayMs, action));
  }

  stop() {
    this.isStopped = true;
    this.pending.forEach(clearTimeout);
  }
}
