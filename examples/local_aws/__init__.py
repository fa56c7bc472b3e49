"""DynamoDB and S3 on this machine, for the demo and the tests: `components` runs them."""
