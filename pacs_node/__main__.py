"""`python -m pacs_node`."""

from pacs_node.cli import main

if __name__ == "__main__":
    main()
