"""Asks a Gemini endpoint with Google's own client, and prints what it heard as JSON.

google_client.py <address>
"""

import base64
import json
import sys

from google import genai
from google.genai import types

client = genai.Client(api_key="AIza-test-key-0123456789", http_options=types.HttpOptions(base_url=sys.argv[1], api_version="v1beta"))
tool = types.Tool(
    function_declarations=[types.FunctionDeclaration(name="see", description="does it", parameters_json_schema={"type": "object"})]
)
config = types.GenerateContentConfig(
    system_instruction="You are a test.",
    tools=[tool],
    tool_config=types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="ANY", allowed_function_names=["see"])),
    automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    max_output_tokens=100,
    temperature=0.5,
    thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_budget=2048),
)
contents = [
    types.Content(role="user", parts=[types.Part(text="first"), types.Part.from_bytes(data=base64.b64decode("QUJD"), mime_type="image/png")]),
    types.Content(role="model", parts=[types.Part(function_call=types.FunctionCall(name="see", args={"a": 1}))]),
    types.Content(role="user", parts=[types.Part(function_response=types.FunctionResponse(name="see", response={"output": "seen"}))]),
    types.Content(role="user", parts=[types.Part(text="and?")]),
]
heard = {"text": "", "thoughts": "", "calls": [], "finish": None, "usage": None}
for chunk in client.models.generate_content_stream(model="gemini-2.5-flash", contents=contents, config=config):
    for candidate in chunk.candidates or []:
        for part in (candidate.content.parts if candidate.content else None) or []:
            if part.function_call:
                heard["calls"].append([part.function_call.name, part.function_call.args])
            elif part.text and part.thought:
                heard["thoughts"] += part.text
            elif part.text:
                heard["text"] += part.text
        heard["finish"] = candidate.finish_reason.name if candidate.finish_reason else heard["finish"]
    if chunk.usage_metadata:
        usage = chunk.usage_metadata
        heard["usage"] = [usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count, usage.cached_content_token_count]
try:
    client.models.generate_content(model="gemini-limited", contents="x")
    heard["error"] = None
except genai.errors.APIError as error:
    heard["error"] = [error.code, error.status]
heard["models"] = [model.name for model in client.models.list()]
print(json.dumps(heard))
