"""The number formats that networks compute in; no torch here, for the command line lists them."""

#: What users write -> torch's name.
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
