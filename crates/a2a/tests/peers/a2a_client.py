"""The SDK for Python as a caller: does what callers do and prints what came of it as one JSON object.

Arguments: address, token, JSONRPC or HTTP+JSON, 1.0 or 0.3.
"""

import asyncio
import json
import sys

import httpx
import jwt
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types import (
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    SubscribeToTaskRequest,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.errors import A2AError
from a2a.utils.signing import create_signature_verifier

url, token, binding, version = sys.argv[1:5]


def message(text, task="", number=[0]):
    number[0] += 1
    name = f"py-{binding}-{version}-{number[0]}"
    return SendMessageRequest(message=Message(message_id=name, role=Role.ROLE_USER, parts=[Part(text=text)], task_id=task))


def state(task):
    return TaskState.Name(task.status.state)


def answer(task):
    return "".join(part.text for artifact in task.artifacts for part in artifact.parts)


async def last(events):
    """The task at the end of a stream, folded by hand, and the kinds of events in order."""
    task, kinds, text = None, [], {}
    async for event in events:
        kind = event.WhichOneof("payload")
        kinds.append(kind)
        if kind == "task":
            task = event.task
            text = {a.artifact_id: "".join(p.text for p in a.parts) for a in task.artifacts}
        elif kind == "message":
            return event.message, kinds, ""
        elif kind == "status_update":
            task.status.CopyFrom(event.status_update.status)
        elif kind == "artifact_update":
            update = event.artifact_update
            piece = "".join(part.text for part in update.artifact.parts)
            before = text.get(update.artifact.artifact_id, "") if update.append else ""
            text[update.artifact.artifact_id] = before + piece
    return task, kinds, "".join(text.values())


async def error_of(coroutine):
    try:
        await coroutine
    except A2AError as err:
        return type(err).__name__
    return None


async def verified_card(http):
    keys = {key["kid"]: jwt.PyJWK(key) for key in (await http.get(f"{url}/a2a/v1/jwks.json")).json()["keys"]}
    held = []
    for algorithm, kid in (("ES256", "es256"), ("EdDSA", "ed25519")):
        verifier = create_signature_verifier(lambda found, _: keys[found], [algorithm])
        await A2ACardResolver(http, url).get_agent_card(signature_verifier=verifier)
        held.append(kid)
    return held


async def main():
    out = {}
    http = httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30)
    if version == "1.0":
        out["verified"] = await verified_card(http)
        card = await A2ACardResolver(http, url).get_agent_card()
    else:
        card = await A2ACardResolver(http, url).get_agent_card(relative_card_path="/.well-known/agent.json")
    out["card"] = card.name
    factory = ClientFactory(ClientConfig(httpx_client=http, supported_protocol_bindings=[binding]))
    client = factory.create(card)

    task, kinds, text = await last(client.send_message(message("echo one two three")))
    out["stream"] = {"state": state(task), "kinds": kinds, "text": text}
    got = await client.get_task(GetTaskRequest(id=task.id))
    out["get"] = {"state": state(got), "text": answer(got), "history": len(got.history)}

    whole = ClientFactory(ClientConfig(httpx_client=http, streaming=False, supported_protocol_bindings=[binding])).create(card)
    task, kinds, _ = await last(whole.send_message(message("echo at once")))
    out["whole"] = {"state": state(task), "kinds": kinds, "text": answer(task)}

    reply, kinds, _ = await last(whole.send_message(message("reply")))
    out["reply"] = {"kinds": kinds, "text": reply.parts[0].text}

    asking, _, _ = await last(client.send_message(message("ask")))
    done, _, text = await last(client.send_message(message("echo this one", asking.id)))
    out["asked"] = {"first": state(asking), "then": state(done), "same": asking.id == done.id, "text": text}

    events = client.send_message(message("hang"))
    hanging = (await anext(events)).task
    follower = asyncio.create_task(last(client.subscribe(SubscribeToTaskRequest(id=hanging.id))))
    await anext(events)
    canceled = await client.cancel_task(CancelTaskRequest(id=hanging.id))
    followed, _, _ = await asyncio.wait_for(follower, 20)
    await events.aclose()
    out["cancel"] = {"state": state(canceled), "followed": state(followed)}

    if version == "1.0":
        page = await client.list_tasks(ListTasksRequest(page_size=2))
        out["list"] = {"page": len(page.tasks), "total": page.total_size, "more": bool(page.next_page_token)}
        config = TaskPushNotificationConfig(task_id=asking.id, id="hook", url="https://example.com/hook", token="t")
        made = await client.create_task_push_notification_config(config)
        get = GetTaskPushNotificationConfigRequest(task_id=asking.id, id="hook")
        same = await client.get_task_push_notification_config(get) == made
        listed = await client.list_task_push_notification_configs(ListTaskPushNotificationConfigsRequest(task_id=asking.id))
        await client.delete_task_push_notification_config(DeleteTaskPushNotificationConfigRequest(task_id=asking.id, id="hook"))
        out["push"] = {"same": same, "listed": len(listed.configs), "gone": await error_of(client.get_task_push_notification_config(get)) is not None}

    out["errors"] = [
        await error_of(client.get_task(GetTaskRequest(id="nobody"))),
        await error_of(client.cancel_task(CancelTaskRequest(id=done.id))),
    ]
    print(json.dumps(out))


asyncio.run(main())
