"""The subcommands of `maskfleet benchmark`, one file each."""
