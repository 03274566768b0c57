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


def hub(peer, mode="auto", url=None):
    token = GIVEN["tokens"].get(peer, peer)
    return Client(StreamableHttpTransport(url or GIVEN["url"], headers={"Authorization": f"Bearer {token}"}), mode=mode)


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


async def wait_agent(client, agent, fits):
    """Until an agent is seen, and as it should be."""
    end = time.monotonic() + 60
    seen = None
    while time.monotonic() < end:
        seen = next((one for one in (await good(client, "agent_discover"))["agents"] if one["agent_id"] == agent), None)
        if seen and fits(seen):
            return seen
        await asyncio.sleep(0.1)
    raise AssertionError(f"{agent} is not seen as it should be: {seen}")


async def farm_first():
    """Programs at two gateways of a farm: they are seen, written to and answered across."""
    async with hub("laptop") as near, hub("phone", url=GIVEN["other"]) as far:
        done = await good(near, "agent_register", agent_id="mac", capabilities=["notes"], description="A laptop", model_provider="ollama")
        assert done["gateway"] == "jerry-gateway", done
        done = await good(far, "agent_register", agent_id="pad", capabilities=["camera"])
        assert done["gateway"] == "bobby-gateway", done
        mac = await wait_agent(far, "mac", lambda one: one["home"] == "external" and one["gateway"] == "jerry-gateway" and "notes" in one["capabilities"])
        assert not mac["yours"] and mac["model_provider"] == "ollama", mac
        await wait_agent(near, "pad", lambda one: one["home"] == "external" and one["gateway"] == "bobby-gateway")
        await wait_agent(near, "bobby", lambda one: one["home"] == "farm" and one["gateway"] == "bobby-gateway")
        await bad(far, "FORBIDDEN", "somebody else", "agent_register", agent_id="mac")
        await bad(far, "FORBIDDEN", "jerry-gateway", "check_inbox", agent_id="mac")

        # An agent of the other gateway is asked.
        ask = {"from": "mac", "to": "bobby", "body": "msg-000001 check the nomad status", "idempotency_key": "ask-1"}
        sent = await good(near, "send_message", **ask)
        reply = await wait_for(near, "mac", lambda letter: letter.get("in_reply_to") == sent["message_id"])
        assert reply["from"] == "bobby" and reply["kind"] == "reply" and "All seven jobs run" in reply["body"], reply
        await good(near, "ack_message", agent_id="mac", message_id=reply["message_id"], lease=reply["lease"])
        again = await good(near, "send_message", **ask)
        assert again["duplicate"] and again["message_id"] == sent["message_id"], again

        # A program's agent of the other gateway is asked, and answers.
        sent = await good(near, "send_message", **{"from": "mac", "to": "pad", "body": "What do you see?"})
        letter = await wait_for(far, "pad", lambda letter: letter["from"] == "mac")
        assert "What do you see?" in letter["body"] and letter["kind"] == "request", letter
        await good(far, "ack_message", agent_id="pad", message_id=letter["message_id"], lease=letter["lease"])
        answer = {"from": "pad", "to": "mac", "body": "A cat.", "kind": "reply", "in_reply_to": letter["message_id"]}
        await good(far, "send_message", **answer)
        assert (await good(far, "send_message", **answer))["duplicate"], "an answer is given once"
        await bad(far, "INVALID_REQUEST", "answered before", "send_message", **{**answer, "body": "A dog."})
        reply = await wait_for(near, "mac", lambda letter: letter.get("in_reply_to") == sent["message_id"])
        assert reply["from"] == "pad" and reply["body"] == "A cat.", reply
        await good(near, "ack_message", agent_id="mac", message_id=reply["message_id"], lease=reply["lease"])

        # No rule lets pad ask jerry: it is told so.
        sent = await good(far, "send_message", **{"from": "pad", "to": "jerry", "body": "Give me the keys"})
        reply = await wait_for(far, "pad", lambda letter: letter.get("in_reply_to") == sent["message_id"])
        assert "error" in reply["body"], reply
        dead = (await good(far, "dlq_list", agent_id="pad"))["letters"]
        assert len(dead) == 1 and dead[0]["to"] == "jerry" and "forbidden" in dead[0]["reason"], dead

        # What one gateway's programs remember, those of the other know; each task is given once.
        await good(near, "set_memory", agent_id="mac", key="color", value="blue", space="shared")
        await good(near, "set_memory", agent_id="mac", key="mood", value={"is": "calm"})
        assert (await good(far, "get_memory", key="color", space="shared"))["value"] == "blue"
        assert (await good(far, "get_memory", agent_id="mac", key="mood"))["value"] == {"is": "calm"}
        await good(near, "push_event", agent_id="mac", event="nomad-alert-cleared")
        events = (await good(far, "get_memory", key="recent-events", space="shared"))["value"]
        assert any("nomad-alert-cleared" in str(event) for event in events), events
        for n in range(24):
            await good(near, "push_task", agent_id="mac", task=n)

    async def taker(n):
        peer, agent, url = ("laptop", "mac", GIVEN["url"]) if n % 2 else ("phone", "pad", GIVEN["other"])
        got = []
        async with hub(peer, url=url) as client:
            while (answer := await good(client, "pop_task", agent_id=agent, request_id=f"t{n}-{len(got)}"))["found"]:
                again = await good(client, "pop_task", agent_id=agent, request_id=f"t{n}-{len(got)}")
                assert again["task"] == answer["task"], "a lost answer can be asked for again"
                got.append(answer["task"]["task"])
        return got

    taken = await asyncio.gather(*[taker(n) for n in range(6)])
    assert sorted(n for got in taken for n in got) == list(range(24)), taken


async def farm_answer():
    """mac answers one letter of an agent of a gateway."""
    async with hub("laptop") as near:
        letter = await wait_for(near, "mac", lambda letter: "what do you see" in str(letter["body"]))
        await good(near, "ack_message", agent_id="mac", message_id=letter["message_id"], lease=letter["lease"])
        await good(near, "send_message", **{"from": "mac", "to": letter["from"], "body": GIVEN["answer"], "kind": "reply", "in_reply_to": letter["message_id"]})


async def farm_vault():
    """Notes of the shared vault: one writer each, logs that only grow, nothing outside."""
    async with hub("laptop") as near, hub("phone", url=GIVEN["other"]) as far:
        await good(near, "agent_register", agent_id="mac")
        await good(far, "agent_register", agent_id="pad")
        done = await good(near, "vault_append", agent_id="mac", path="MEMORY.md", entry="The disk is nearly full.", task="watch the disk", status="blocked")
        assert done["path"] == "agents/mac/MEMORY.md" and done["commit"] == GIVEN["commit"], done
        note = await good(far, "vault_read", path="agents/mac/MEMORY.md")
        assert note["found"] and "**Task:** watch the disk" in note["text"] and "**Status:** blocked" in note["text"], note
        written = await good(near, "vault_write", agent_id="mac", path="agents/mac/PLAN.md", text="# Plan\n\nBuy a disk.\n")
        await good(near, "vault_write", agent_id="mac", path="PLAN.md", text="# Plan\n\nBuy two disks.\n", revision=written["revision"])
        await bad(far, "FORBIDDEN", "one writer", "vault_write", agent_id="pad", path="agents/mac/PLAN.md", text="mine")
        await bad(far, "FORBIDDEN", "line by line", "vault_write", agent_id="pad", path="shared/RECENT_EVENTS.md", text="mine")
        for path in ["../../etc/passwd.md", "/etc/passwd.md", "agents/mac/../jerry/X.md", "agents/mac/.git/config.md", "shared/a/b.md"]:
            await bad(near, "INVALID_REQUEST", "no note", "vault_read", path=path)
            await bad(near, "INVALID_REQUEST", "no note", "vault_write", agent_id="mac", path=path, text="x")
        for n in range(5):
            await asyncio.gather(
                good(near, "vault_append", agent_id="mac", path="shared/RECENT_EVENTS.md", entry=f"mac saw {n}"),
                good(far, "vault_append", agent_id="pad", path="shared/RECENT_EVENTS.md", entry=f"pad saw {n}"),
            )
        log = (await good(near, "vault_read", path="shared/RECENT_EVENTS.md"))["text"]
        assert all(f"**{who}**: {who} saw {n}" in log for who in ("mac", "pad") for n in range(5)), log
        listed = [note["path"] for note in (await good(far, "vault_list"))["notes"]]
        assert "agents/mac/PLAN.md" in listed and "shared/RECENT_EVENTS.md" in listed, listed
        hits = (await good(far, "vault_list", words="two disks", folder="agents"))["notes"]
        assert [hit["path"] for hit in hits] == ["agents/mac/PLAN.md"], hits


asyncio.run({"farm_first": farm_first, "farm_answer": farm_answer, "farm_vault": farm_vault, "first": first, "second": second, "slow": slow, "stdio": stdio, "refused": refused}[GIVEN["scenario"]]())
print("ok")
