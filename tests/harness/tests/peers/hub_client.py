"""FastMCP's client against a gateway's hub. Usage: hub_client.py <JSON with url, tokens and scenario>.

Ends with 0 and the line "ok" when everything was as it must be.
"""

import asyncio
import json
import sys
import time

from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

GIVEN = json.loads(sys.argv[1])


def hub(peer, mode="auto"):
    token = GIVEN["tokens"].get(peer, peer)
    return Client(StreamableHttpTransport(GIVEN["url"], headers={"Authorization": f"Bearer {token}"}), mode=mode)


async def good(client, tool, **args):
    answer = await client.call_tool(tool, args)
    assert not answer.is_error, answer
    return answer.structured_content


async def bad(client, code, part, tool, **args):
    answer = await client.call_tool(tool, args, raise_on_error=False)
    assert answer.is_error, (tool, args, answer)
    error = answer.structured_content["error"]
    assert error["code"] == code and part in error["message"], (tool, error)


async def wait_for(client, agent, wanted, seconds=60):
    """Takes letters until one fits; what does not fit goes back at once."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for letter in (await good(client, "check_inbox", agent_id=agent))["messages"]:
            if wanted(letter):
                return letter
            await good(client, "ack_message", agent_id=agent, message_id=letter["message_id"], lease=letter["lease"], outcome="return")
        await asyncio.sleep(0.1)
    raise AssertionError(f"no such letter for {agent}")


async def first():
    """Two peers join, talk to an agent of the gateway and to each other, and share memory."""
    async with hub("laptop") as laptop, hub("phone", "legacy") as phone:
        done = await good(laptop, "agent_register", agent_id="mac", capabilities=["notes"], description="A laptop")
        assert done["created"] and done["gateway"] == GIVEN["gateway"], done
        await good(phone, "agent_register", agent_id="pocket")
        agents = {agent["agent_id"]: agent for agent in (await good(phone, "agent_discover"))["agents"]}
        assert agents["jerry"]["home"] == "farm" and agents["jerry"]["gateway"] == GIVEN["gateway"], agents
        assert agents["mac"]["home"] == "external" and not agents["mac"]["yours"] and agents["pocket"]["yours"], agents
        await bad(phone, "FORBIDDEN", "somebody else", "agent_register", agent_id="jerry")
        await bad(phone, "FORBIDDEN", "mac", "check_inbox", agent_id="mac")
        await bad(laptop, "FORBIDDEN", "jerry", "check_inbox", agent_id="jerry")

        # An agent of the gateway is asked; its answer comes back.
        ask = {"from": "mac", "to": "jerry", "body": "msg-000001 check the nomad status", "idempotency_key": "ask-1"}
        sent = await good(laptop, "send_message", **ask)
        assert not sent["duplicate"], sent
        reply = await wait_for(laptop, "mac", lambda letter: letter.get("in_reply_to") == sent["message_id"])
        assert reply["from"] == "jerry" and reply["kind"] == "reply" and "All seven jobs run" in reply["body"], reply
        await good(laptop, "ack_message", agent_id="mac", message_id=reply["message_id"], lease=reply["lease"])
        again = await good(laptop, "send_message", **ask)
        assert again["duplicate"] and again["message_id"] == sent["message_id"], again
        await bad(laptop, "INVALID_REQUEST", "another letter", "send_message", **{**ask, "body": "other"})

        # Another peer's agent gets a letter; it stays in the inbox for what comes next.
        await good(laptop, "send_message", **{"from": "mac", "to": "pocket", "body": {"n": 1}, "kind": "event", "idempotency_key": "to-pocket"})
        letter = await wait_for(phone, "pocket", lambda letter: letter["body"] == {"n": 1})
        assert letter["delivery_count"] == 1, letter
        assert (await good(phone, "check_inbox", agent_id="pocket"))["messages"] == [], "a lent letter is not given twice"
        await good(phone, "ack_message", agent_id="pocket", message_id=letter["message_id"], lease=letter["lease"], outcome="return")
        lost = await good(laptop, "send_message", **{"from": "mac", "to": "pocket", "body": "no"})
        await good(phone, "ack_message", agent_id="pocket", message_id=lost["message_id"], outcome="failed", reason="do not know how")

        await good(laptop, "set_memory", agent_id="mac", key="color", value={"is": "blue"}, space="shared")
        assert (await good(phone, "get_memory", key="color", space="shared"))["value"] == {"is": "blue"}
        for n in range(24):
            await good(laptop, "push_task", agent_id="mac", task=n)


async def second():
    """The gateway was killed meanwhile: agents, letters, dead letters, memory and tasks are there."""
    async with hub("laptop") as laptop, hub("phone") as phone, hub("boss") as boss:
        agents = {agent["agent_id"]: agent for agent in (await good(laptop, "agent_discover"))["agents"]}
        assert agents["mac"]["yours"] and agents["mac"]["description"] == "A laptop", agents
        assert not (await good(laptop, "agent_register", agent_id="mac"))["created"]
        letter = await wait_for(phone, "pocket", lambda letter: letter["body"] == {"n": 1})
        assert letter["delivery_count"] == 2, letter
        done = await good(phone, "ack_message", agent_id="pocket", message_id=letter["message_id"], lease=letter["lease"])
        assert done["state"] == "acked" and not done["repeated"], done
        again = await good(laptop, "send_message", **{"from": "mac", "to": "pocket", "body": {"n": 1}, "kind": "event", "idempotency_key": "to-pocket"})
        assert again["duplicate"] and again["message_id"] == letter["message_id"] and again["state"] == "acked", again
        dead = (await good(phone, "dlq_list", agent_id="pocket"))["letters"]
        assert len(dead) == 1 and "do not know how" in dead[0]["reason"], dead
        await bad(phone, "FORBIDDEN", "operator", "dlq_replay", message_id=dead[0]["message_id"])
        new = await good(boss, "dlq_replay", message_id=dead[0]["message_id"])
        back = await wait_for(phone, "pocket", lambda letter: letter["message_id"] == new["message_id"])
        assert back["body"] == "no", back
        assert (await good(phone, "get_memory", key="color", space="shared"))["value"] == {"is": "blue"}

        # The letter that was accepted just before the kill is answered.
        reply = await wait_for(laptop, "mac", lambda letter: "in the end" in str(letter["body"]))
        assert reply["from"] == "jerry" and reply["in_reply_to"] == GIVEN["slow"], reply

    async def taker(n):
        got = []
        async with hub("laptop") as client:
            while (answer := await good(client, "pop_task", agent_id="mac"))["found"]:
                got.append(answer["task"]["task"])
        return got

    taken = await asyncio.gather(*[taker(n) for n in range(8)])
    assert sorted(n for got in taken for n in got) == list(range(24)), taken


async def slow():
    """A letter whose answer takes a while. Prints its id."""
    async with hub("laptop") as laptop:
        sent = await good(laptop, "send_message", **{"from": "mac", "to": "jerry", "body": "msg-000002 think long about it !delay 1500"})
        print(sent["message_id"])


async def refused():
    """A wrong token gets words."""
    try:
        async with hub("some-token-that-nobody-has-0123456789") as client:
            await client.list_tools()
    except Exception as err:
        assert "UNAUTHORIZED" in str(err) and "token" in str(err), repr(err)
    else:
        raise AssertionError("served without a token")


async def stdio():
    """The same hub through `openclaw mcp serve`, as every version of the protocol does it."""
    command, *words = GIVEN["command"]
    for mode in ["auto", "legacy", "2026-07-28"]:
        async with Client(StdioTransport(command, words, env=GIVEN["env"], keep_alive=False), mode=mode) as client:
            assert "check_inbox" in {tool.name for tool in await client.list_tools()}
            agents = {agent["agent_id"]: agent for agent in (await good(client, "agent_discover"))["agents"]}
            assert agents["mac"]["yours"] and not agents["pocket"]["yours"], agents
            await bad(client, "FORBIDDEN", "pocket", "check_inbox", agent_id="pocket")


asyncio.run({"first": first, "second": second, "slow": slow, "stdio": stdio, "refused": refused}[GIVEN["scenario"]]())
print("ok")
