"""Write the parsed form of the bundled specs, which the package reads in place of their YAML.

python packaging/parse_specs.py
"""

from energylens.inputs.bundled import KINDS, bundled
from energylens.inputs.parsed import FOLDER, parsed_file, parsed_text
from energylens.inputs.yaml import Document


def main() -> None:
    """Write a file for each spec, and delete those whose spec is gone."""
    written = set()
    for kind in KINDS:
        for path in bundled(kind).values():
            text = path.read_text(encoding="utf-8")
            file = parsed_file(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(parsed_text(text, Document(text, str(path)).data), encoding="utf-8")
            written.add(file)
    for file in set(FOLDER.rglob("*.json")) - written:
        file.unlink()


if __name__ == "__main__":
    main()
