"use strict";

document.querySelector("#no-script").hidden = true;

const form = document.querySelector("#switch");
const button = form.querySelector("button");
const store = form.querySelector(".store");
const log = document.querySelector("#log tbody");
const [cart, brewing] = document.querySelectorAll("#log th a");
let before; // what was seen before this
let known; // who the session last said this is

async function ask(url, options) {
  const response = await fetch(url, {cache: "no-store", ...options});
  return {status: response.status, text: await response.text()};
}

async function look() {
  const pages = [cart.href, brewing.href, form.dataset.visitor];
  const [inCart, inBrewing, visitor] = await Promise.all(pages.map((url) => ask(url)));
  // Asked for last: had one of the answers replaced or deleted the cookie, it would show.
  const {off, fingerprint} = JSON.parse((await ask(form.dataset.cookie)).text);
  return {
    off,
    fingerprint: fingerprint ?? "none",
    cart: inCart.status,
    brewing: inBrewing.status,
    name: visitor.status === 200 ? JSON.parse(visitor.text).name || "nobody" : null,
    visitor: visitor.status,
  };
}

function draw(seen) {
  store.dataset.off = seen.off;
  store.querySelector("span").textContent = seen.off ? "does not answer" : "answers";
  button.value = seen.off ? "on" : "off";
  button.textContent = seen.off ? "Switch the store on again" : "Switch the store off";
  document.querySelector("#sign-in").hidden = seen.name !== "nobody";
  const row = log.insertRow();
  row.className = seen.off ? "down" : "";
  const values = [seen.off ? "off" : "on", seen.cart, seen.brewing, seen.name ?? seen.visitor, seen.fingerprint];
  for (const value of values) row.insertCell().textContent = value;
  log.closest(".scroll").hidden = false;
}

function tell(seen) {
  const cookie = seen.fingerprint === before.fingerprint ? "Your cookie is the same." : "Your cookie is another.";
  const still = seen.name === known ? "still " : "";
  const who = seen.name === "nobody" ? "You are not signed in." : `You are ${still}signed in as ${seen.name}.`;
  return seen.off
    ? `The store is down. The cart answers ${seen.cart}, brewing answers ${seen.brewing}. ${cookie}`
    : `The store answers again. ${who} ${cookie}`;
}

function remember(seen) {
  before = seen;
  known = seen.name ?? known;
}

const first = look().then((seen) => {
  draw(seen);
  remember(seen);
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = new FormData(form, button);
  await first;
  await ask(form.action, {method: "POST", body});
  const seen = await look();
  draw(seen);
  document.querySelector("#said").textContent = tell(seen);
  remember(seen);
});
