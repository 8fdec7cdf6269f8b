"""The page ``/docs``: the OpenAPI description as plain HTML, with nothing fetched from elsewhere."""

from __future__ import annotations

import html
import json
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font:14px ui-monospace,monospace}pre{overflow:auto;background:#8882;padding:1rem}"
    ":root{color-scheme:light dark}"
)


def docs_page(schema: dict[str, Any]) -> str:
    """The routes with what they take; ``schema`` is the OpenAPI description."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            lines = [f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"]
            lines.append(
                f"<p>{html.escape(about.get('description', about.get('summary', '')))}</p>"
            )
            lines += [_body(kind, body, schema) for kind, body in _bodies(about)]
            parts.append("\n".join(lines))
    title = html.escape(f"{schema['info']['title']} {schema['info']['version']}")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<meta name=viewport content='width=device-width'>"
        f"<style>{_STYLE}</style><h1>{title}</h1>"
        f"<p>{html.escape(schema['info'].get('description', ''))} "
        "<a href=openapi.json>openapi.json</a></p>" + "\n".join(parts)
    )


def _bodies(about: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    content = about.get("requestBody", {}).get("content", {})
    return [(kind, body.get("schema", {})) for kind, body in content.items()]


def _body(kind: str, body: dict[str, Any], schema: dict[str, Any]) -> str:
    name = str(body.get("$ref", "")).rpartition("/")[2]
    found = schema.get("components", {}).get("schemas", {}).get(name, body)
    text = json.dumps(found, indent=2, ensure_ascii=False)
    return (
        f"<details><summary>{html.escape(kind)}</summary><pre>{html.escape(text)}</pre></details>"
    )
