"""The commands of the host, each in a module of its own, which is imported when the command is asked for: `proxy.cli`."""
