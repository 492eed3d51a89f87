"""The systems around Aura, as far as they are told of it or tell it something (§6, §7)."""
