/** What is to be done later, each thing under a name: asked for again it waits anew, and it is not done twice. */
export class Schedule {
  constructor() {
    this.waiting = new Map();
    this.isOver = false;
  }

  after(name, pauseMs, act) {
    clearTimeout(this.waiting.get(name));
    if (!this.isOver) this.waiting.set(name, setTimeout(act, pauseMs));
  }

  /** Now, and again and again with that pause between, as long as somebody looks at the page. */
  async poll(name, pauseMs, act) {
    if (!document.hidden) await act();
    this.after(`poll ${name}`, pauseMs, () => this.poll(name, pauseMs, act));
  }

  end() {
    this.isOver = true;
    this.waiting.forEach(clearTimeout);
  }
}
