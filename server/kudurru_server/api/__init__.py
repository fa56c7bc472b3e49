"""The edge: gRPC services. Protobuf messages stop in `convert`, errors become statuses in `status`."""
