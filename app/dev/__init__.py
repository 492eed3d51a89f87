"""Programs for development and operation: `aura ask`, `aura demo`, `aura chaos`. The service never imports them."""
