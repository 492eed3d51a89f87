"""Programs for development and operation: `aura ask`, `aura demo` and `aura chaos`. The service never imports them."""
