"""Shows in the API reference what the comments behind a class's fields say: a NamedTuple has one for each field."""

from typing import Any

from griffe import Class, Extension


class FieldComments(Extension):
    """Adds the comment on each field's own line to the docstring of its class, as a section of attributes."""

    def on_class(self, *, cls: Class, **_: Any) -> None:
        if cls.docstring is None:
            return
        fields = []
        for name, attribute in cls.attributes.items():
            _, _, comment = attribute.source.partition("  # ") if attribute.lineno else ("", "", "")
            if comment:
                fields.append(f"    {name}: {comment.strip()}")
        if fields:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(fields)
