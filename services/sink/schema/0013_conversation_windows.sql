CREATE VIEW IF NOT EXISTS message_db.conversation_windows
(
    conversation_id   String COMMENT 'Conversation.',
    window_start      DateTime64(3, 'UTC') COMMENT 'Not included.',
    window_end        DateTime64(3, 'UTC') COMMENT 'Included.',
    message_count     UInt32 COMMENT 'Messages in the window.',
    participant_count UInt32 COMMENT 'Distinct senders in the window.',
    rate              Float64 COMMENT 'Messages per second.',
    peak              UInt32 COMMENT 'Most messages in one step of the window.',
    reply_seconds     Float64 COMMENT 'Mean seconds to the message before by someone else, both in the window; 0 without any.',
    replies           UInt32 COMMENT 'Replies that mean is over.',
    state             String COMMENT 'provisional or closed.',
    revision          UInt32 COMMENT 'Grows with each change.',
    accepted_at       DateTime64(3, 'UTC') COMMENT 'When Kafka took this revision.',
    _partition        Int32 COMMENT 'Its partition in conversation-metrics.',
    _offset           Int64 COMMENT 'Its offset.'
)
AS SELECT
    conversation_id,
    window_start,
    window_end,
    message_count,
    participant_count,
    rate,
    peak,
    reply_seconds,
    replies,
    toString(rows.state) AS state,
    revision,
    accepted_at,
    _partition,
    _offset
FROM message_db.conversation_window_rows AS rows FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Every conversation and window once, as it was last known.'
