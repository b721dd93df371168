"""What users write: the pydantic models behind the custom resources, and the contracts between the two programs. Pure."""
