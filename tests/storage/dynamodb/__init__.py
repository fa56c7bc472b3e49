"""The parts of the store on DynamoDB, each by itself."""
