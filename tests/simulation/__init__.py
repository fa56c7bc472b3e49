"""The real engine and the real protocol on DynamoDB, over a database and a time of our own: thousands of schedules."""
