#!/usr/bin/env bash
# A memory from any language: all it takes is HTTP and JSON. Here it is curl.
#
# Start the service first (`memory-service serve`), then run `bash examples/any_language.sh [http://localhost:8000]`.
set -euo pipefail

URL="${1:-http://localhost:8000}"
USER_ID="${2:-curl-$$-$(date +%s)}"

post() { curl --silent --show-error --fail-with-body "$URL$1" -H 'Content-Type: application/json' -d "$2"; echo; }
get() { curl --silent --show-error --fail-with-body "$URL$1"; echo; }
OWNER="\"user_id\": \"$USER_ID\", \"session_id\": \"s1\""

echo "--- two messages; the session begins with them"
post /messages "{$OWNER, \"messages\": [
  {\"role\": \"user\", \"content\": \"I live in Porto now.\", \"message_id\": \"m1\"},
  {\"role\": \"assistant\", \"content\": \"How is the weather there?\", \"message_id\": \"m2\"}]}"
echo "--- the same again: stored once"
post /messages "{$OWNER, \"messages\": [{\"role\": \"user\", \"content\": \"I live in Porto now.\", \"message_id\": \"m1\"}]}"
echo "--- the latest"
get "/messages?user_id=$USER_ID&session_id=s1&latest=2"
echo "--- ready for a chat model"
post /messages/history "{$OWNER, \"system_prompt\": \"Be kind.\", \"user_message\": \"Where do I live?\"}"
echo "--- the session ends, and is read (wait_s waits for it)"
post /sessions/end "{$OWNER, \"wait_s\": 20}"
echo "--- another session begins with what was learnt"
post /sessions/start "{\"user_id\": \"$USER_ID\", \"session_id\": \"s2\"}"
echo "--- a question"
post /memory/retrieve "{\"user_id\": \"$USER_ID\", \"query\": \"Where do I live?\", \"top_k\": 1}"
echo "--- and all of it is forgotten"
curl --silent --show-error --fail-with-body -X DELETE "$URL/users/$USER_ID"; echo
