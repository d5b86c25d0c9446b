// The service has done what the link in the mail was for, and says in the address what came of it. This tells it to
// people, in words of its own: the address can be written by anybody, so no text of it is shown.

const OUTCOMES = {
  signup: ["Your address is confirmed.", "You can sign in now."],
  email: ["Your address is confirmed.", "You can sign in now."],
  email_change: ["Your new address is confirmed.", "Sign in with it from now on."],
  magiclink: ["Your address is confirmed.", "Go back to the app that you came from and sign in there."],
}
const QUESTIONS = {
  recovery: ["Choose a new password.", ""],
  invite: ["Welcome!", "Your address is confirmed. Choose a password to sign in with."],
}
const EXPIRED = [
  "This link has expired or was used before.",
  "A link works once, and not for long. It may have done its work already: try to sign in, or else ask for a new one.",
]
const FAILED = ["This link did not work.", "Ask for a new one, or turn to the people who run this desk."]
const HALF = ["One more step.", "Now open the link in the mail that was sent to your other address."]
const ELSEWHERE = ["Your link has worked.", "Go back to the app that you came from; it goes on there."]
const NOTHING = ["There is nothing to do here.", "Links in our mails end at this page. Open the one in your latest mail."]
const SAVED = ["Your password is saved.", "Sign in with it from now on."]

const main = document.querySelector("main")
const heading = document.getElementById("heading")
const form = document.getElementById("form")
const problem = document.getElementById("problem")
const { email, password, again } = form.elements
const button = form.querySelector("button")

const facts = new URLSearchParams(`${location.hash.slice(1)}&${location.search.slice(1)}`)
// Neither the history nor a screenshot shall keep a credential.
history.replaceState(null, "", location.pathname)
addEventListener("hashchange", () => location.reload())
const token = facts.get("access_token")
const type = facts.get("type")

if (facts.has("error") || facts.has("error_code")) {
  tell("bad", facts.get("error_code") === "otp_expired" ? EXPIRED : FAILED)
} else if (token && Object.hasOwn(QUESTIONS, type)) {
  ask()
} else if (token) {
  tell("good", Object.hasOwn(OUTCOMES, type) ? OUTCOMES[type] : ELSEWHERE)
  leave()
} else if (facts.has("message")) {
  tell("calm", HALF)
} else if (facts.has("code")) {
  tell("good", ELSEWHERE)
} else {
  tell("calm", NOTHING)
}

function tell(mood, [title, text]) {
  main.dataset.mood = mood
  heading.textContent = title
  document.getElementById("text").textContent = text
  document.title = `${title} – Deskbase`
  form.hidden = mood !== "ask"
  heading.focus()
}

function ask() {
  tell("ask", QUESTIONS[type])
  email.value = addressIn(token)
  document.getElementById("account").hidden = !email.value
  again.addEventListener("input", () => complain(""))
  form.addEventListener("submit", save)
  password.focus()
}

async function save(event) {
  event.preventDefault()
  if (password.value !== again.value) {
    complain("The two passwords are not the same.")
    again.focus()
    return
  }
  complain("")
  button.disabled = true
  const refusal = await send(password.value)
  button.disabled = false
  if (refusal) {
    complain(refusal)
    password.focus()
  } else {
    form.reset()
    tell("good", SAVED)
    leave()
  }
}

/** Save the password, and answer why that was refused, if it was. */
async function send(text) {
  try {
    const answer = await fetch("/auth/v1/user", {
      method: "PUT",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({ password: text }),
    })
    if (answer.ok) return ""
    const { message } = await answer.json().catch(() => ({}))
    return message || `The server answered ${answer.status}. Please try again.`
  } catch {
    return "The server could not be reached. Please try again."
  }
}

/** End the session that the link has opened: nobody uses it. */
function leave() {
  const headers = { authorization: `Bearer ${token}` }
  fetch("/auth/v1/logout?scope=local", { method: "POST", headers, keepalive: true }).catch(() => {})
}

function complain(text) {
  problem.textContent = text
}

/** Read the e-mail address in a JWT; an empty text if there is none. */
function addressIn(jwt) {
  try {
    const bytes = atob(jwt.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes, (c) => c.charCodeAt(0)))).email ?? ""
  } catch {
    return ""
  }
}
