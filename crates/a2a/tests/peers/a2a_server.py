"""The SDK for Python as an agent: both bindings on a free port of loopback. Prints its address, then serves until killed."""

import asyncio
import socket

import uvicorn
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandlerV2
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Part, Task, TaskState, TaskStatus
from starlette.applications import Starlette


class Echo(AgentExecutor):
    async def execute(self, context, queue):
        text = context.get_user_input()
        word, _, rest = text.partition(" ")
        updater = TaskUpdater(queue, context.task_id, context.context_id)
        if word == "reply":
            await queue.enqueue_event(updater.new_agent_message([Part(text="at once")]))
            return
        if context.current_task is None:
            await queue.enqueue_event(
                Task(id=context.task_id, context_id=context.context_id, status=TaskStatus(state=TaskState.TASK_STATE_SUBMITTED), history=[context.message])
            )
        if word == "ask":
            await updater.requires_input(updater.new_agent_message([Part(text="Which one?")]))
            return
        await updater.start_work()
        if word == "hang":
            await asyncio.Event().wait()
        if word == "fail":
            await updater.failed(updater.new_agent_message([Part(text="It did not work")]))
            return
        for number, piece in enumerate(rest.split(" ")):
            await updater.add_artifact([Part(text=piece + " ")], artifact_id="answer", append=number > 0, last_chunk=False)
        await updater.complete()

    async def cancel(self, context, queue):
        await TaskUpdater(queue, context.task_id, context.context_id).cancel()


def main():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    url = "http://127.0.0.1:%d" % listener.getsockname()[1]
    card = AgentCard(
        name="Python Echo",
        description="says what you say",
        version="1.0.0",
        supported_interfaces=[
            AgentInterface(url=f"{url}/rpc", protocol_binding="JSONRPC", protocol_version="1.0"),
            AgentInterface(url=f"{url}/rest", protocol_binding="HTTP+JSON", protocol_version="1.0"),
        ],
        capabilities=AgentCapabilities(streaming=True, push_notifications=False),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="echo", name="Echo", description="says what you say", tags=["echo"])],
    )
    handler = DefaultRequestHandlerV2(agent_executor=Echo(), task_store=InMemoryTaskStore(), agent_card=card)
    routes = create_agent_card_routes(card) + create_jsonrpc_routes(handler, "/rpc") + create_rest_routes(handler, path_prefix="/rest")
    print(url, flush=True)
    uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="warning")).run(sockets=[listener])


main()
