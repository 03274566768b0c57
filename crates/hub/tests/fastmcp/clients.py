"""FastMCP's client against the hub. Usage: clients.py <scenario> <JSON with the address, tokens and command>.

Ends with 0 and the line "ok" when everything was as it must be.
"""

import asyncio
import json
import sys
import time

from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError
from jsonschema import Draft202012Validator

GIVEN = json.loads(sys.argv[2])
TOOLS = {
    "agent_register", "agent_discover", "agent_heartbeat", "send_message", "check_inbox", "ack_message", "set_memory",
    "get_memory", "push_event", "push_task", "pop_task", "dlq_list", "dlq_replay",
}


def http(peer, mode="auto"):
    token = GIVEN["tokens"].get(peer, peer)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Client(StreamableHttpTransport(GIVEN["url"], headers=headers), mode=mode)


def stdio(mode="auto"):
    command, *words = GIVEN["command"]
    return Client(StdioTransport(command, words, keep_alive=False), mode=mode)


async def good(client, tool, **args):
    # The client checks the structured content against the tool's output schema.
    answer = await client.call_tool(tool, args)
    assert not answer.is_error and isinstance(answer.structured_content, dict), answer
    assert json.loads(answer.content[0].text) == answer.structured_content
    return answer.structured_content


async def bad(client, code, part, tool, **args):
    answer = await client.call_tool(tool, args, raise_on_error=False)
    assert answer.is_error, (tool, args, answer)
    error = answer.structured_content["error"]
    assert error["code"] == code, (tool, args, error)
    assert part in error["message"], (tool, args, error)
    assert answer.content[0].text.startswith(code + ": "), answer
    try:
        await client.call_tool(tool, args)
    except ToolError as err:
        assert code in str(err), err
    else:
        raise AssertionError(f"{tool} raised nothing")
    return error


async def schemas(client):
    tools = {tool.name: tool for tool in await client.list_tools()}
    assert set(tools) == TOOLS, sorted(tools)
    for tool in tools.values():
        fields = tool.model_dump(by_alias=True)
        for schema in (fields["inputSchema"], fields["outputSchema"]):
            Draft202012Validator.check_schema(schema)
        assert fields["description"] and fields["annotations"] and fields["title"], fields
    assert tools["get_memory"].annotations.model_dump(by_alias=True)["readOnlyHint"] is True


async def every_tool(client, operator, name, farm_agent=True):
    """Each tool once, as it is meant."""
    me, other = f"{name}-one", f"{name}-two"
    made = await good(client, "agent_register", agent_id=me, capabilities=["consul", name], gateway_id="jerry-gateway", heartbeat_enabled=True)
    assert made["success"] and made["created"] and made["gateway"] == "jerry-gateway", made
    await good(client, "agent_register", agent_id=other)
    assert not (await good(client, "agent_register", agent_id=me, capabilities=[name]))["created"]
    await good(client, "agent_heartbeat", agent_id=me, status="busy", last_check_result="all-healthy")
    found = (await good(client, "agent_discover", capability=name))["agents"]
    assert [a["agent_id"] for a in found] == [me] and found[0]["yours"] and found[0]["status"] == "busy", found
    assert found[0]["last_check_result"] == "all-healthy" and found[0]["home"] == "external", found

    sent = await good(client, "send_message", from_agent=me, to_agent=other, message_body={"q": "Any failed allocations?"}, idempotency_key="k1")
    again = await good(client, "send_message", **{"from": me, "to": other, "body": {"q": "Any failed allocations?"}, "idempotency_key": "k1"})
    assert again["duplicate"] and again["message_id"] == sent["message_id"], again
    box = await good(client, "check_inbox", agent_id=other)
    assert [m["message_id"] for m in box["messages"]] == [sent["message_id"]], box
    assert box["messages"][0]["body"] == {"q": "Any failed allocations?"} and box["messages"][0]["from"] == me
    done = await good(client, "ack_message", agent_id=other, message_id=sent["message_id"], lease=box["messages"][0]["lease"])
    assert done["state"] == "acked" and not done["repeated"], done
    assert (await good(client, "check_inbox", agent_id=other))["messages"] == []

    for value in ["text", 7, 1.5, True, [1, None], {"a": {"b": "é"}}, ""]:
        await good(client, "set_memory", agent_id=me, key="k", value=value)
        assert (await good(client, "get_memory", agent_id=me, key="k"))["value"] == value
    read = await good(client, "get_memory", agent_id=me, key="k")
    await good(client, "set_memory", agent_id=me, key="k", value="next", if_version=read["version"], ttl_seconds=60)
    assert "expires_at" in await good(client, "get_memory", agent_id=me, key="k")
    assert (await good(client, "get_memory", agent_id=me))["keys"] == ["k"]
    assert (await good(client, "set_memory", agent_id=me, key="k", value=None))["removed"]
    assert not (await good(client, "get_memory", agent_id=me, key="k"))["found"]
    await good(client, "set_memory", agent_id=me, key=f"{name}-all", value=1, space="shared", if_absent=True)
    assert f"{name}-all" in (await good(client, "get_memory", space="shared"))["keys"]

    await good(client, "push_event", agent_id=me, event=f"{name}-alert-cleared")
    events = (await good(client, "get_memory", space="shared", key="recent-events"))["value"]
    assert any(e["agent"] == me and e["event"] == f"{name}-alert-cleared" and e["timestamp"] for e in events), events

    pushed = await good(client, "push_task", agent_id=me, task={"job": name})
    assert pushed["waiting"] == 1, pushed
    took = await good(client, "pop_task", agent_id=other, request_id="r1")
    assert took["found"] and took["task"]["task"] == {"job": name} and took["task"]["pushed_by"] == me, took
    assert took["task"] == (await good(client, "pop_task", agent_id=other, request_id="r1"))["task"]
    assert (await good(client, "pop_task", agent_id=other)) == {"found": False, "remaining": 0}

    lost = await good(client, "send_message", **{"from": me, "to": other, "body": "no"})
    await good(client, "ack_message", agent_id=other, message_id=lost["message_id"], outcome="failed", reason="do not know how")
    dead = (await good(client, "dlq_list", agent_id=other))["letters"]
    assert [d["message_id"] for d in dead] == [lost["message_id"]] and "do not know how" in dead[0]["reason"], dead
    new = await good(operator, "dlq_replay", message_id=lost["message_id"])
    back = await good(client, "check_inbox", agent_id=other)
    assert [m["message_id"] for m in back["messages"]] == [new["message_id"]], back
    await good(client, "ack_message", agent_id=other, message_id=new["message_id"])


async def every_error(client, stranger):
    """Each kind of failure, with its code, through the client."""
    await good(client, "agent_register", agent_id="mine")
    wrong = "INVALID_REQUEST"
    await bad(client, wrong, "agent_id", "agent_register")
    await bad(client, wrong, "agent id", "agent_register", agent_id="Not An Id")
    await bad(client, wrong, "colour", "agent_register", agent_id="mine", colour="red")
    await bad(client, wrong, "limit", "agent_discover", limit=0)
    await bad(client, wrong, "body", "send_message", **{"from": "mine", "to": "jerry"})
    await bad(client, wrong, "bytes", "send_message", **{"from": "mine", "to": "jerry", "body": "x" * 70000})
    await bad(client, wrong, "in_reply_to", "send_message", **{"from": "mine", "to": "jerry", "body": "x", "kind": "reply"})
    await bad(client, wrong, "ttl_ms", "send_message", **{"from": "mine", "to": "jerry", "body": "x", "ttl_ms": 5})
    await bad(client, wrong, "reason", "ack_message", agent_id="mine", message_id="m", outcome="failed")
    await bad(client, wrong, "memory key", "set_memory", agent_id="mine", key="../../etc", value=1)
    await bad(client, wrong, "push_event", "set_memory", agent_id="mine", key="task-queue", value=1, space="shared")
    await bad(client, wrong, "agent_id", "get_memory", key="k")
    await bad(client, wrong, "empty", "push_task", agent_id="mine", task="")
    await bad(client, wrong, "request_id", "pop_task", agent_id="mine", request_id="a b")
    await bad(client, "NOT_FOUND", "ghost", "send_message", **{"from": "mine", "to": "ghost", "body": "x"})
    await bad(client, "NOT_FOUND", "ghost", "check_inbox", agent_id="ghost")
    await bad(client, "NOT_FOUND", "no-letter", "ack_message", agent_id="mine", message_id="no-letter")
    await good(client, "set_memory", agent_id="mine", key="k", value=1)
    await bad(client, "CONFLICT", "k", "set_memory", agent_id="mine", key="k", value=2, if_version="stale")
    await bad(client, "CONFLICT", "k", "set_memory", agent_id="mine", key="k", value=2, if_absent=True)
    await bad(client, "FORBIDDEN", "farm", "send_message", **{"from": "jerry", "to": "mine", "body": "x"})
    if stranger:
        for tool, args in [
            ("agent_register", {}), ("agent_heartbeat", {}), ("check_inbox", {}), ("ack_message", {"message_id": "m"}), ("pop_task", {}),
            ("set_memory", {"key": "k", "value": 2}), ("push_event", {"event": "e"}), ("push_task", {"task": "t"}), ("dlq_list", {}),
        ]:
            await bad(stranger, "FORBIDDEN", "mine" if tool != "agent_register" else "belongs", tool, agent_id="mine", **args)
        await bad(stranger, "FORBIDDEN", "operator", "dlq_replay", message_id="m")
        assert (await good(stranger, "get_memory", agent_id="mine", key="k"))["value"] == 1
    answer = None
    try:
        answer = await client.call_tool("rm_rf", {})
    except Exception as err:
        assert "rm_rf" in str(err), err
    assert answer is None, answer


async def over_http():
    for mode in ["auto", "legacy", "2026-07-28"]:
        async with http("laptop", mode) as client, http("operator", mode) as operator:
            await schemas(client)
            await every_tool(client, operator, f"m{mode.replace('-', '')}")
    async with http("laptop") as client, http("phone") as stranger:
        await every_error(client, stranger)
    for token in ["", "some-token-that-nobody-has-0123456789"]:
        try:
            async with http(token) as client:
                await client.list_tools()
        except Exception as err:
            assert "UNAUTHORIZED" in str(err) and "token" in str(err), repr(err)
        else:
            raise AssertionError("served without a token")


async def over_stdio():
    for mode in ["auto", "legacy", "2026-07-28"]:
        async with stdio(mode) as client:
            await schemas(client)
            await every_tool(client, client, "local")
    async with stdio() as client:
        await every_error(client, None)


async def conversation():
    """Two clients, each with an agent, talk ten times there and back."""
    async with http("laptop") as bobby, http("phone", "legacy") as betty:
        await good(bobby, "agent_register", agent_id="talk-bobby")
        await good(betty, "agent_register", agent_id="talk-betty")

        async def take(client, agent):
            end = time.monotonic() + 20
            while time.monotonic() < end:
                for letter in (await good(client, "check_inbox", agent_id=agent, limit=1))["messages"]:
                    await good(client, "ack_message", agent_id=agent, message_id=letter["message_id"], lease=letter["lease"])
                    return letter
                await asyncio.sleep(0.01)
            raise AssertionError("no letter")

        async def answerer():
            for _ in range(10):
                asked = await take(betty, "talk-betty")
                reply = {"from": "talk-betty", "to": asked["from"], "body": asked["body"] * 2, "kind": "reply", "in_reply_to": asked["message_id"]}
                await good(betty, "send_message", **reply)

        helper = asyncio.create_task(answerer())
        for n in range(10):
            sent = await good(bobby, "send_message", **{"from": "talk-bobby", "to": "talk-betty", "body": n})
            reply = await take(bobby, "talk-bobby")
            assert reply["body"] == n * 2 and reply["in_reply_to"] == sent["message_id"] and reply["kind"] == "reply", reply
        await helper
        # Neither reads the other's letters.
        await bad(betty, "FORBIDDEN", "talk-bobby", "check_inbox", agent_id="talk-bobby")


async def lease():
    """A letter that is not settled comes again when its lease is over (here: of half a second)."""
    async with http("laptop") as one, http("laptop") as two:
        await good(one, "agent_register", agent_id="lease-a")
        sent = await good(one, "send_message", **{"from": "lease-a", "to": "lease-a", "body": "once"})
        first = (await good(one, "check_inbox", agent_id="lease-a"))["messages"]
        assert [m["delivery_count"] for m in first] == [1], first
        end, again = time.monotonic() + 20, []
        while not again and time.monotonic() < end:
            again = (await good(two, "check_inbox", agent_id="lease-a"))["messages"]
            await asyncio.sleep(0.02)
        assert [(m["message_id"], m["delivery_count"]) for m in again] == [(sent["message_id"], 2)], again
        await bad(one, "INVALID_REQUEST", "lease", "ack_message", agent_id="lease-a", message_id=sent["message_id"], lease=first[0]["lease"])
        await good(two, "ack_message", agent_id="lease-a", message_id=sent["message_id"], lease=again[0]["lease"])
        assert (await good(one, "ack_message", agent_id="lease-a", message_id=sent["message_id"]))["repeated"]
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert (await good(one, "check_inbox", agent_id="lease-a"))["messages"] == []
            await asyncio.sleep(0.1)


async def tasks():
    """Sixteen clients take tasks at the same time: each task is given once."""
    total = 96
    async with http("laptop") as client:
        await good(client, "agent_register", agent_id="queue-a")
        for n in range(total):
            await good(client, "push_task", agent_id="queue-a", task=n)

    async def taker():
        got = []
        async with http("laptop") as client:
            while (answer := await good(client, "pop_task", agent_id="queue-a"))["found"]:
                got.append(answer["task"]["task"])
        return got

    taken = await asyncio.gather(*[taker() for _ in range(16)])
    given = sorted(n for got in taken for n in got)
    assert given == list(range(total)), given
    assert sum(1 for got in taken if got) > 1, "one client took everything: nothing was tried at the same time"


SCENARIOS = {"http": over_http, "stdio": over_stdio, "conversation": conversation, "lease": lease, "tasks": tasks}
asyncio.run(SCENARIOS[sys.argv[1]]())
print("ok")
