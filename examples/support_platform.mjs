// Walks through the support-platform API: a ticket, its socket, a message, and a signed delivery. Needs Node 22 or newer.
//
//   export TOKEN="eyJ…"                                    the access token of a log-in
//   export BASE_URL="http://127.0.0.1:8000/support-platform"
//   export WEBHOOK_SECRET="…"                              DESKBASE_INCOMING_WEBHOOK_SECRET; without: no delivery
//   node examples/support_platform.mjs
import { createHmac, randomUUID } from "node:crypto"

const { TOKEN, WEBHOOK_SECRET } = process.env
const BASE_URL = process.env.BASE_URL.replace(/\/$/, "")

async function call(method, path, body, headers = {}) {
  const answer = await fetch(`${BASE_URL}/v1${path}`, {
    method,
    headers: { Authorization: `Bearer ${TOKEN}`, "Content-Type": "application/json", ...headers },
    body: body && JSON.stringify(body),
  })
  const json = await answer.json()
  if (!answer.ok) throw new Error(`${answer.status} ${JSON.stringify(json.detail)}`)
  return { json, etag: answer.headers.get("ETag") }
}

// `since=` with the last position would bring what was missed.
async function listen(ticketId) {
  const socket = new WebSocket(`${BASE_URL.replace("http", "ws")}/ws/tickets/${ticketId}?token=${TOKEN}`)
  const heard = new Promise((resolve, reject) => {
    socket.onmessage = ({ data }) => resolve(JSON.parse(data))
    socket.onclose = ({ code, reason }) => reject(new Error(`closed with ${code} ${reason}`))
  })
  await new Promise((resolve) => (socket.onopen = resolve))
  return { socket, heard }
}

for (const category of (await call("GET", "/categories")).json) console.log(`There is a category ${category.name}.`)

// However often this is repeated with the key, there is one ticket.
const { json: ticket, etag } = await call(
  "POST", "/tickets", { title: "Can't login to account", priority: "high" }, { "Idempotency-Key": randomUUID() },
)
console.log(`The ticket is ${ticket.id}, ${ticket.status}.`)

const { socket, heard } = await listen(ticket.id)
// Refused with 412 if somebody has answered since.
await call("POST", `/tickets/${ticket.id}/messages`, { content: "It began this morning." }, { "If-Match": etag })
const { event, data } = await heard
console.log(`Heard ${event}: ${data.content}`)
socket.close()

const { json: page } = await call("GET", "/tickets?status=open&limit=5")
console.log(`${page.total} tickets are open.`)

if (WEBHOOK_SECRET) {
  const body = { event: "ticket.created", data: { external_id: randomUUID(), title: "From our own system" } }
  const signature = createHmac("sha256", WEBHOOK_SECRET).update(JSON.stringify(body)).digest("hex")
  const { json } = await call("POST", "/webhooks/incoming", body, { "X-Signature": signature })
  console.log(`The delivery was answered with ${JSON.stringify(json)}.`)
}
