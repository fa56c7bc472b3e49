"""Entry point of `kudurru-server` and `python -m kudurru_server`."""

from kudurru_server.cli import app


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
