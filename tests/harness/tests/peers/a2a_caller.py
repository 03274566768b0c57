"""The SDK for Python as a caller of a gateway: does the steps it is told and prints what came of each as one JSON line.

Arguments: address, token; then a JSON list of steps, each {"do": ..}:
- card: the agents of the card
- send {id, text, agent?, context?}: waits for the end
- stream {id, text, agent?, context?}: reads the stream to its end
- begin {id, text}: does not wait
- get {task}, cancel {task}, wait {task}: the latter follows the task to its end
- watch_cancel {task}: follows the task, cancels it after the first event, and follows it to its end
- list {}: the ids of the caller's tasks
- push {task, id, to}, pushes {task}, unpush {task, id}: push configs
- verify {}: the ids of the keys whose signatures on the card hold

`agent` names the agent; without it the first one is meant.
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
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    SubscribeToTaskRequest,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.errors import A2AError
from a2a.utils.signing import create_signature_verifier

url, token, steps = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def shown(task):
    text = "".join(part.text for artifact in task.artifacts for part in artifact.parts)
    return {"task": task.id, "context": task.context_id, "state": TaskState.Name(task.status.state), "text": text}


def request(step, **configuration):
    message = Message(message_id=step["id"], role=Role.ROLE_USER, parts=[Part(text=step["text"])], context_id=step.get("context", ""))
    return SendMessageRequest(message=message, tenant=step.get("agent", ""), configuration=SendMessageConfiguration(**configuration))


async def follow(events):
    """The task of a stream at its end, and how many pieces of text came before the whole."""
    task, pieces, texts = None, 0, {}
    async for event in events:
        kind = event.WhichOneof("payload")
        if kind == "task":
            task = event.task
            texts = {a.artifact_id: "".join(p.text for p in a.parts) for a in task.artifacts}
        elif kind == "status_update":
            task.status.CopyFrom(event.status_update.status)
        elif kind == "artifact_update":
            update = event.artifact_update
            pieces += not update.last_chunk
            before = texts.get(update.artifact.artifact_id, "") if update.append else ""
            texts[update.artifact.artifact_id] = before + "".join(part.text for part in update.artifact.parts)
    return {**shown(task), "text": "".join(texts.values()), "pieces": pieces}


async def verified(http):
    """The kids of the card whose signatures hold, each checked alone with the keys that the gateway shows."""
    keys = {key["kid"]: (key["alg"], jwt.PyJWK(key)) for key in (await http.get(f"{url}/.well-known/jwks.json")).json()["keys"]}
    plain = (await http.get(f"{url}/.well-known/agent-card.json")).json()
    held = []
    for signature in plain.get("signatures", []):
        header = jwt.get_unverified_header(signature["protected"] + ".e30." + signature["signature"])
        algorithm, key = keys[header["kid"]]

        def of(kid, _, wanted=header["kid"], key=key):
            if kid != wanted:
                raise jwt.exceptions.InvalidKeyError(kid)
            return key

        try:
            await A2ACardResolver(http, url).get_agent_card(signature_verifier=create_signature_verifier(of, [algorithm]))
            held.append(header["kid"])
        except Exception as err:
            held.append(repr(err))
    return held


async def main():
    http = httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60)
    card = await A2ACardResolver(http, url).get_agent_card()
    streaming = ClientFactory(ClientConfig(httpx_client=http)).create(card)
    plain = ClientFactory(ClientConfig(httpx_client=http, streaming=False)).create(card)
    for step in steps:
        try:
            match step["do"]:
                case "card":
                    out = {"name": card.name, "skills": [skill.id for skill in card.skills], "streaming": card.capabilities.streaming}
                case "send":
                    out = [shown(event.task) async for event in plain.send_message(request(step))][-1]
                case "begin":
                    out = [shown(event.task) async for event in plain.send_message(request(step, return_immediately=True))][-1]
                case "stream":
                    out = await follow(streaming.send_message(request(step)))
                case "get":
                    out = shown(await plain.get_task(GetTaskRequest(id=step["task"], tenant=step.get("agent", ""))))
                case "cancel":
                    out = shown(await plain.cancel_task(CancelTaskRequest(id=step["task"], tenant=step.get("agent", ""))))
                case "wait":
                    out = await follow(streaming.subscribe(SubscribeToTaskRequest(id=step["task"], tenant=step.get("agent", ""))))
                case "watch_cancel":
                    events = streaming.subscribe(SubscribeToTaskRequest(id=step["task"], tenant=step.get("agent", "")))

                    async def cancelled(events=events, step=step):
                        first = True
                        async for event in events:
                            yield event
                            if first:
                                first = False
                                await plain.cancel_task(CancelTaskRequest(id=step["task"], tenant=step.get("agent", "")))

                    out = await follow(cancelled())
                case "list":
                    out = [task.id for task in (await plain.list_tasks(ListTasksRequest(tenant=step.get("agent", "")))).tasks]
                case "push":
                    config = TaskPushNotificationConfig(task_id=step["task"], id=step["id"], url=step["to"], tenant=step.get("agent", ""))
                    out = {"id": (await plain.create_task_push_notification_config(config)).id}
                case "pushes":
                    asked = ListTaskPushNotificationConfigsRequest(task_id=step["task"], tenant=step.get("agent", ""))
                    out = [config.id for config in (await plain.list_task_push_notification_configs(asked)).configs]
                case "unpush":
                    asked = DeleteTaskPushNotificationConfigRequest(task_id=step["task"], id=step["id"], tenant=step.get("agent", ""))
                    await plain.delete_task_push_notification_config(asked)
                    out = {}
                case "verify":
                    out = await verified(http)
        except A2AError as err:
            out = {"error": type(err).__name__, "words": str(err)}
        print(json.dumps(out), flush=True)


asyncio.run(main())
