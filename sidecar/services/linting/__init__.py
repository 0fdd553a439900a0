"""What is wrong, or likely wrong, with rules that load: the checks of `sidecar rules lint`."""
