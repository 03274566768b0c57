use crossterm::event::KeyCode;
use ratatui::{buffer::Buffer, layout::Rect, style::Color};
use serde_json::json;

use super::View;
use crate::{
    command::Tag,
    event::{Event, Link},
    options::Colour,
    update::testing::{Table, hello, options, page},
};

fn screen(table: &mut Table, width: u16, height: u16) -> Vec<String> {
    let mut view = View::new(Colour::Full);
    let area = Rect::new(0, 0, width, height);
    let mut buf = Buffer::empty(area);
    let measures = view.paint(&table.state, area, &mut buf);
    table.state.measured(measures);
    rows(&buf)
}

fn rows(buf: &Buffer) -> Vec<String> {
    let area = buf.area;
    (0..area.height).map(|y| (0..area.width).map(|x| buf[(x, y)].symbol()).collect::<String>().trim_end().to_owned()).collect()
}

fn conversation() -> Table {
    let mut table = Table::connected();
    table.answer(
        Tag::Startup("agent:jerry:main".into()),
        page(
            &[
                json!({"role": "user", "content": "Which files are there?", "__openclaw": {"seq": 1, "runId": "r"}}),
                json!({"role": "assistant", "content": [{"type": "thinking", "thinking": "I should look first"}, {"type": "toolCall", "id": "c", "name": "exec", "arguments": {"command": "ls"}}], "__openclaw": {"seq": 2, "runId": "r"}}),
                json!({"role": "toolResult", "toolCallId": "c", "toolName": "exec", "content": [{"type": "text", "text": "a.txt\nb.txt"}], "isError": false, "__openclaw": {"seq": 3, "runId": "r"}}),
                json!({"role": "assistant", "content": [{"type": "text", "text": "Two:\n\n- `a.txt`\n- **b.txt**, which is the one you asked about yesterday evening"}], "__openclaw": {"seq": 4, "runId": "r"}}),
            ],
            None,
        ),
    );
    table
}

#[test]
fn a_conversation_on_a_small_screen() {
    let mut table = conversation();
    assert_eq!(
        screen(&mut table, 60, 15),
        [
            " openclaw · jerry · main                           mock/one",
            "› Which files are there?",
            "",
            "┊ thought, 4 words (Ctrl-T shows them)",
            "",
            "● exec {\"command\":\"ls\"}",
            "",
            "Two:",
            "",
            "• a.txt",
            "• b.txt, which is the one you asked about yesterday evening",
            "",
            "────────────────────────────────────────────────────────────",
            "›  Type a message, / for commands, F1 for help",
            " ● connected                                        F1 help",
        ]
    );
}

#[test]
fn what_is_folded_opens() {
    let mut table = conversation();
    table.ctrl('o');
    table.ctrl('t');
    let rows = screen(&mut table, 60, 20);
    assert!(rows.contains(&"┊ I should look first".to_owned()) && rows.contains(&"  │ b.txt".to_owned()), "{rows:#?}");
}

#[test]
fn reading_back_keeps_its_place_while_an_answer_streams() {
    let mut table = conversation();
    screen(&mut table, 60, 12);
    table.event(Event::Wheel(-3));
    let before = screen(&mut table, 60, 12);
    table.agent("s", "assistant", json!({"text": "a long answer\n\nwith lines", "itemId": "i"}));
    let after = screen(&mut table, 60, 12);
    assert_eq!(before[1..9], after[1..9]);
    assert!(after[9].contains("lines below · End"), "{after:#?}");
    table.key(KeyCode::End);
    assert!(screen(&mut table, 60, 12).iter().any(|row| row.starts_with("with lines")));
}

#[test]
fn the_connection_is_always_told() {
    let mut table = Table::new(&options());
    assert!(screen(&mut table, 60, 15)[1].contains("Connecting"));
    table.event(Event::Link(Link::Down { why: "no gateway answers at ws://127.0.0.1:1".into(), retry_ms: 4_000 }));
    let rows = screen(&mut table, 60, 15);
    assert!(rows[1].contains("Not connected") && rows[14].starts_with(" ○ disconnected, again in 4 s: no gateway"), "{rows:#?}");
    table.event(Event::Link(Link::Connecting(2)));
    assert!(screen(&mut table, 60, 15)[14].contains("connecting, attempt 2"));
    table.event(Event::Link(Link::Up(Box::new(hello()))));
    assert!(screen(&mut table, 60, 15)[14].contains("connected"));
}

#[test]
fn running_tools_and_approvals() {
    let mut table = Table::connected();
    table.agent("r", "tool", json!({"phase": "start", "name": "exec", "toolCallId": "c", "args": {"command": "sleep 9"}}));
    table.hear("exec.approval.requested", json!({"id": "a", "request": {"command": "rm -rf \u{1b}[2J/tmp/x", "agentId": "jerry"}}));
    table.wait(3_000);
    let rows = screen(&mut table, 80, 15);
    assert!(rows.contains(&"◌ exec {\"command\":\"sleep 9\"}".to_owned()));
    assert!(rows.contains(&"! jerry wants to run: rm -rf [2J/tmp/x".to_owned()), "escape codes are not obeyed: {rows:#?}");
    assert!(rows[14].contains("exec 3 s · Esc stops"), "{}", rows[14]);
}

#[test]
fn lists_and_help_fit() {
    let mut table = conversation();
    table.ctrl('p');
    let serial = table.state.list_serial;
    table.answer(
        Tag::Sessions(serial),
        json!({"sessions": [
        {"key": "agent:jerry:main", "lastMessagePreview": "Two:"},
        {"key": "agent:jerry:plans", "label": "Plans", "hasActiveRun": true}]}),
    );
    assert_eq!(
        screen(&mut table, 60, 15),
        [
            "┌ Sessions ────────────────────────────────────────────────┐",
            "│Search:                                                   │",
            "│✓ agent:jerry:main  Two:                                  │",
            "│  ● Plans  agent:jerry:plans                              │",
            "│                                                          │",
            "│                                                          │",
            "│                                                          │",
            "│                                                          │",
            "│                                                          │",
            "│                                                          │",
            "│                                                          │",
            "│                                                          │",
            "│                                                          │",
            "│Enter open  ^N new  ^E rename  ^R reset  ^D delete  Esc   │",
            "└──────────────────────────────────────────────────────────┘",
        ]
    );
    table.key(KeyCode::Esc);
    table.key(KeyCode::F(1));
    for (width, height) in [(60, 15), (100, 40), (20, 6)] {
        assert!(screen(&mut table, width, height).iter().any(|row| row.contains("Help")), "{width}x{height}");
    }
}

#[test]
fn every_size_can_be_painted() {
    let mut table = conversation();
    table.event(Event::Paste("some text\nin two lines".into()));
    for width in 1..70 {
        for height in 1..20 {
            screen(&mut table, width, height);
        }
    }
}

#[test]
fn no_color_means_none() {
    let mut table = conversation();
    table.hear("exec.approval.requested", json!({"id": "a", "request": {"command": "x"}}));
    let area = Rect::new(0, 0, 60, 15);
    let colours = |colour| {
        let mut buf = Buffer::empty(area);
        View::new(colour).paint(&table.state, area, &mut buf);
        buf.content().iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert_eq!(colours(Colour::None), 0);
    assert!(colours(Colour::Full) > 0);
}
