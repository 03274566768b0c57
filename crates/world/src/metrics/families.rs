//! The table of what is counted. Names that the original's exporter has are its names, with the labels of its that
//! have a meaning here.

/// How a family's values are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sort {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Measurements, counted by these upper bounds.
    Histogram(&'static [f64]),
}

/// A family of series.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// One line about it.
    pub help: &'static str,
    /// How it is read.
    pub sort: Sort,
    /// The names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
}

impl Family {
    /// The upper bounds; none unless it is a histogram.
    #[must_use]
    pub const fn bounds(&self) -> &'static [f64] {
        match self.sort {
            Sort::Histogram(bounds) => bounds,
            Sort::Counter | Sort::Gauge => &[],
        }
    }
}

/// Seconds of things that take from a millisecond to ten minutes.
const LONG: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Seconds of things that should be quick.
const QUICK: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

macro_rules! families {
    ($($(#[doc = $help:literal])+ $variant:ident = $name:literal, $sort:expr, [$($label:literal),*];)+) => {
        /// What is counted; a value names a family of series.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum M {
            $($(#[doc = $help])+ $variant,)+
        }

        impl M {
            /// All of them, in the order of the page.
            pub const ALL: &'static [M] = &[$(M::$variant,)+];

            /// Name, help, sort and labels.
            #[must_use]
            pub const fn family(self) -> Family {
                match self {
                    $(M::$variant => Family { name: $name, help: concat!($($help),+).trim_ascii(), sort: $sort, labels: &[$($label),*] },)+
                }
            }
        }
    };
}

families! {
    /// The process that answers; always 1.
    BuildInfo = "openclaw_gateway_build_info", Sort::Gauge, ["process_instance_id", "version"];
    /// When the process started, seconds since 1970.
    ProcessStart = "process_start_time_seconds", Sort::Gauge, [];
    /// Processor time of the process, seconds.
    ProcessCpu = "process_cpu_seconds_total", Sort::Counter, [];
    /// Memory the process holds, bytes.
    ProcessRss = "process_resident_memory_bytes", Sort::Gauge, [];
    /// Files and sockets the process has open.
    ProcessFds = "process_open_fds", Sort::Gauge, [];
    /// Memory by kind, bytes; a native process has rss only.
    MemoryBytes = "openclaw_memory_bytes", Sort::Gauge, ["kind"];
    /// WebSocket connections of clients.
    Connections = "openclaw_gateway_connections", Sort::Gauge, [];
    /// Requests over WebSocket, by method.
    RpcRequests = "openclaw_gateway_rpc_requests_total", Sort::Counter, ["method"];
    /// How long handlers of requests took, seconds.
    RpcHandler = "openclaw_gateway_rpc_handler_seconds", Sort::Histogram(QUICK), ["method"];
    /// How requests ended.
    RpcOutcomes = "openclaw_gateway_rpc_outcomes_total", Sort::Counter, ["phase", "outcome"];
    /// Turns that ended.
    Runs = "openclaw_run_completed_total", Sort::Counter, ["agent", "channel", "model", "outcome", "provider", "trigger"];
    /// How long turns took, seconds.
    RunSeconds = "openclaw_run_duration_seconds", Sort::Histogram(LONG), ["channel", "outcome", "trigger"];
    /// Questions to models.
    ModelCalls = "openclaw_model_call_total", Sort::Counter, ["error_category", "model", "observation_unit", "outcome", "provider"];
    /// How long models took for a whole answer, seconds.
    ModelSeconds = "openclaw_model_call_duration_seconds", Sort::Histogram(LONG), ["model", "outcome", "provider"];
    /// A model failed and another one was asked.
    ModelFailover = "openclaw_model_failover_total", Sort::Counter, ["from_model", "reason", "to_model"];
    /// Tokens by model and kind (input, output, cache_read, cache_write).
    ModelTokens = "openclaw_model_tokens_total", Sort::Counter, ["agent", "channel", "model", "provider", "token_type"];
    /// Estimated cost of model calls, US dollars.
    ModelCost = "openclaw_model_cost_usd_total", Sort::Counter, ["agent", "channel", "model", "provider"];
    /// Tool calls.
    ToolCalls = "openclaw_tool_execution_total", Sort::Counter, ["outcome", "tool"];
    /// How long tool calls took, seconds.
    ToolSeconds = "openclaw_tool_execution_duration_seconds", Sort::Histogram(LONG), ["outcome", "tool"];
    /// Effects of which nobody knows whether they happened; never repeated by themselves.
    UncertainEffects = "openclaw_uncertain_effects_total", Sort::Counter, ["kind"];
    /// Messages that came from chat platforms.
    MessagesReceived = "openclaw_message_received_total", Sort::Counter, ["channel", "source"];
    /// Replies handed to chat platforms.
    MessageDelivery = "openclaw_message_delivery_total", Sort::Counter, ["channel", "delivery_kind", "outcome"];
    /// Letters that wait or run in sessions of this gateway.
    SessionQueue = "openclaw_session_queue_depth", Sort::Gauge, ["state"];
    /// Turns that run now.
    LaneSize = "openclaw_queue_lane_size", Sort::Gauge, ["lane"];
    /// Batches sent by an exporter of traces or figures.
    Exporter = "openclaw_telemetry_exporter_total", Sort::Counter, ["exporter", "reason", "signal", "status"];
    /// Spans that found no room in the exporter's queue.
    SpansDropped = "openclaw_telemetry_spans_dropped_total", Sort::Counter, [];
    /// Series that were not kept because there are too many.
    SeriesDropped = "openclaw_prometheus_series_dropped_total", Sort::Counter, [];

    /// Events of the farm (farm.msg.*, farm.member.*, farm.key.*, farm.shard.*), by name and reason.
    FarmEvents = "openclaw_farm_events_total", Sort::Counter, ["event", "reason"];
    /// Letters that were not taken, by reason (bad_signature, fenced, expired, ...).
    FarmRejected = "openclaw_farm_letters_rejected_total", Sort::Counter, ["reason"];
    /// Attempts that were handed to the bus.
    FarmSends = "openclaw_farm_sends_total", Sort::Counter, [];
    /// Attempts that have to be made again; why is in the events.
    FarmRetries = "openclaw_farm_retries_total", Sort::Counter, [];
    /// Letters that were given up; why is in the events.
    FarmDead = "openclaw_farm_dead_letters_total", Sort::Counter, [];
    /// Letters that came again and were not done again.
    FarmDuplicates = "openclaw_farm_duplicates_total", Sort::Counter, [];
    /// Receipts by type (delivered, acked, failed, busy) and direction (in, out).
    FarmReceipts = "openclaw_farm_receipts_total", Sort::Counter, ["direction", "type"];
    /// From a letter's row to the receipt that it arrived, seconds.
    FarmDelivery = "openclaw_farm_delivery_seconds", Sort::Histogram(QUICK), [];
    /// Letters of ours under way, by state (queued, in_flight, delivered, failed).
    FarmLetters = "openclaw_farm_letters", Sort::Gauge, ["state"];
    /// Age of the oldest letter that nobody has confirmed yet, seconds; 0 when there is none.
    FarmOldestQueued = "openclaw_farm_oldest_queued_seconds", Sort::Gauge, [];
    /// Dead letters that wait for a decision.
    FarmDeadKept = "openclaw_farm_dead_letters", Sort::Gauge, [];
    /// Signs of life written to the coordination store, by outcome (ok, missed).
    FarmHeartbeats = "openclaw_farm_heartbeats_total", Sort::Counter, ["outcome"];
    /// How long the coordination store took, by operation and outcome, seconds.
    FarmCoordSeconds = "openclaw_farm_coord_seconds", Sort::Histogram(QUICK), ["op", "outcome"];
    /// 1 when the coordination store answers.
    FarmCoordUp = "openclaw_farm_coord_up", Sort::Gauge, ["engine"];
    /// 1 when the bus answers.
    FarmBusUp = "openclaw_farm_bus_up", Sort::Gauge, ["engine"];
    /// Gateways of the farm by state (healthy, silent).
    FarmMembers = "openclaw_farm_members", Sort::Gauge, ["state"];
    /// 1 when a gateway of the farm gave a sign of life lately.
    FarmMemberUp = "openclaw_farm_member_up", Sort::Gauge, ["gateway"];
    /// 1 when the link to a gateway is up.
    FarmLinkUp = "openclaw_farm_link_up", Sort::Gauge, ["gateway"];
    /// How far a gateway's clock is from ours, seconds; positive when it is ahead.
    FarmClockSkew = "openclaw_farm_clock_skew_seconds", Sort::Gauge, ["gateway"];
    /// Agents by state (owned: somebody who is alive holds it; unowned).
    FarmUnits = "openclaw_farm_units", Sort::Gauge, ["state"];
    /// Changes of who holds a unit, as this gateway saw them.
    FarmEpochs = "openclaw_farm_epoch_changes_total", Sort::Counter, ["unit"];
    /// Times this gateway gave up units because another one holds them.
    FarmSelfFenced = "openclaw_farm_self_fenced_total", Sort::Counter, [];
    /// Problems that `farm status` lists now.
    FarmProblems = "openclaw_farm_problems", Sort::Gauge, [];
    /// Steps of keys (enrolled, rotated, revoked), by event.
    FarmKeyEvents = "openclaw_farm_key_events_total", Sort::Counter, ["event"];
}
