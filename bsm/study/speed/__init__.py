"""Speed and memory of scans, networks, training steps and data loading."""
