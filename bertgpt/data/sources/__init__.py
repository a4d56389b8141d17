"""Files, URLs, the hub, and the readers that turn them into documents."""
