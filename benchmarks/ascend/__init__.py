"""What can be known about the Ascend lowerings without an Ascend device: see README.md."""
