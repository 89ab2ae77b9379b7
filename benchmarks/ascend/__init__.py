"""What can be known about the Ascend lowerings without an Ascend device.

| file | question |
|---|---|
| `inventory.py` | which primitives do the lowerings and the models become? |
| `registry.py` | for which of these does MindSpore's wheel have an aclnn kernel? |
"""
