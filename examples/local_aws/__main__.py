"""`python -m examples.local_aws`: DynamoDB Local and SeaweedFS until Ctrl-C, and the variables that servers need."""

import signal
import sys
from contextlib import suppress

from examples.local_aws.bucket import create_bucket
from examples.local_aws.components import ComponentError, dynamodb_local, seaweedfs

_BUCKET = "kudurru"


def main() -> None:
    """Run both; what they hold is lost at the end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), dynamodb_local() as tables, seaweedfs() as s3:
        create_bucket(s3, _BUCKET)
        variables = {
            **tables.environment,
            **s3.environment,
            "KUDURRU_STORAGE": "dynamodb",
            "KUDURRU_DYNAMODB_CREATE_TABLES": "true",
            "KUDURRU_S3_BUCKET": _BUCKET,
        }
        sys.stdout.write("".join(f"export {name}={value}\n" for name, value in variables.items()))
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    try:
        main()
    except ComponentError as error:
        sys.exit(str(error))
