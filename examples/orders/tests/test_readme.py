"""What the README says to type works, in its order."""

import shlex
from argparse import ArgumentParser
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"

curl = ArgumentParser()
curl.add_argument("-X", dest="method", default="GET")
curl.add_argument("-H", dest="headers", action="append", default=[])
curl.add_argument("--json", dest="content")
curl.add_argument("url")


async def test_the_requests_of_the_readme_are_answered(client):
    lines = [line for line in README.read_text().splitlines() if line.startswith("curl ")]
    for line in lines:
        asked = curl.parse_args(shlex.split(line)[1:])
        headers = {"content-type": "application/json", **dict(h.split(": ") for h in asked.headers)}
        path = asked.url.removeprefix("localhost:8000")
        answer = await client.request(asked.method, path, content=asked.content, headers=headers)
        assert answer.is_success, (line, answer.text)
    assert len(lines) == 5
