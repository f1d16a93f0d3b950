-- Real-time spam detection
SELECT 
    user_id,
    count(*) as messages_last_5min
FROM message_db.messages 
WHERE created_at >= now() - 300
GROUP BY user_id
HAVING messages_last_5min > 20;
