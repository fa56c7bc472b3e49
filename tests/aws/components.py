"""The real services that tests run on; they live beside the demo, which runs on the same."""

from examples.local_aws.components import Component, ComponentError, dynamodb_local, seaweedfs

__all__ = ["Component", "ComponentError", "dynamodb_local", "seaweedfs"]
