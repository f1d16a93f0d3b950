-- Conversation health
SELECT 
    conversation_id,
    count(*) as total_messages,
    countDistinct(sender_id) as participants
FROM message_db.messages
GROUP BY conversation_id
ORDER BY total_messages DESC;
