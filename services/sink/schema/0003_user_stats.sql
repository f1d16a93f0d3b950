-- A view, not a counter: it is exact after copies, replays and TTL alike.
CREATE VIEW IF NOT EXISTS message_db.user_stats
(
    user_id              String COMMENT 'Sender.',
    message_count        UInt32 COMMENT 'Distinct messages kept.',
    active_conversations UInt32 COMMENT 'Distinct conversations the user sent to.',
    last_active          DateTime64(3, 'UTC') COMMENT 'created_at of the last message.',
    created_at           DateTime64(3, 'UTC') COMMENT 'created_at of the first message.'
)
AS SELECT
    sender_id AS user_id,
    toUInt32(count()) AS message_count,
    toUInt32(uniqExact(conversation_id)) AS active_conversations,
    max(m.created_at) AS last_active,
    min(m.created_at) AS created_at
FROM message_db.messages AS m
GROUP BY sender_id
COMMENT 'One row per sender, over all kept messages.'
