"""The store on DynamoDB and S3: one commit log decides the order, the tables are derived from it."""
