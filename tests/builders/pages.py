"""What a test reads of a report page."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Counts tags and gathers text and what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.text, self.open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + " "
