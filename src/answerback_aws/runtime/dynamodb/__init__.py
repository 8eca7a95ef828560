"""The stores on DynamoDB: every guarantee is a conditional write, drawn as a time line above it."""
