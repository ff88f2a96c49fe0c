"""OpenAI's own client, and a deployment behind `dsi-mqtt gateway`.

dsi-mqtt gateway &
pip install openai
python examples/10_openai_client.py ["Tell me of rain"] [--url …] [--key …] [--model chat]
"""

from __future__ import annotations

import argparse
import sys

from openai import APIConnectionError, OpenAI, OpenAIError


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Asks a deployment through OpenAI's API.")
    parser.add_argument("prompt", nargs="?", default="Tell me of rain")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none", help="where the gateway has --keys")
    parser.add_argument("--model", default="chat")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    with OpenAI(base_url=options.url, api_key=options.key) as client:
        stream = client.chat.completions.create(
            model=options.model,
            messages=[{"role": "user", "content": options.prompt}],
            max_completion_tokens=60,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            for choice in chunk.choices:
                print(choice.delta.content or "", end="", flush=True)
            if chunk.usage is not None:
                print(f"\n{chunk.usage.completion_tokens} tokens")


options = arguments()
try:
    main(options)
except APIConnectionError:
    sys.exit(f"nothing answers at {options.url}; start `dsi-mqtt gateway`, or give another --url")
except OpenAIError as error:
    sys.exit(f"{error}")
