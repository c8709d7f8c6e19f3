"use strict";

const form = document.querySelector("#race");
form.hidden = false;
document.querySelector("#no-script").hidden = true;
const button = form.querySelector("button");
const status = form.querySelector("[role=status]");

function draw(cell, state) {
  cell.dataset.state = state;
  cell.querySelector("span").textContent = state;
}

async function send(path, options) {
  const response = await fetch(path, {cache: "no-store", ...options});
  if (!response.ok) throw new Error(`The site answered ${response.status}.`);
  return response;
}

async function run(lane) {
  const {url, title} = lane.dataset;
  const cells = [...lane.querySelectorAll(".cell")];
  const [score, done] = lane.querySelectorAll(".score > *");
  const count = (state) => cells.filter((cell) => cell.dataset.state === state).length;
  const post = (path) => send(url + path, {method: "POST", body: new FormData(form)});

  let kept;
  await post("start/");
  try {
    await Promise.all(
      cells.map(async (cell, index) => {
        draw(cell, "sent");
        try {
          await post(`write/${index + 1}/`);
          draw(cell, "answered");
          score.textContent = count("answered");
        } catch {
          draw(cell, "failed");
        }
      }),
    );
    ({kept} = await (await send(`${url}kept/`)).json());
  } finally {
    await post("tidy/").catch(() => {}); // the next race tidies up first
  }
  cells.forEach((cell, index) => {
    if (kept.includes(index + 1)) draw(cell, "kept");
    else if (cell.dataset.state === "answered") draw(cell, "lost");
  });

  score.textContent = kept.length;
  done.textContent = "kept";
  const lost = count("lost");
  const failed = count("failed");
  lane.querySelector(".result").textContent =
    (lost
      ? `${lost} requests were answered without an error, and what they wrote is gone.`
      : "Whatever was answered without an error is in the session.") +
    (failed ? ` ${failed} requests failed.` : "");
  return `${title} kept ${kept.length} of ${cells.length} writes.`;
}

function clear(lane) {
  const [score, done] = lane.querySelectorAll(".score > *");
  lane.querySelectorAll(".cell").forEach((cell) => draw(cell, ""));
  score.textContent = 0;
  done.textContent = "answered";
  lane.querySelector(".result").textContent = "Not run yet.";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true"; // unlike `disabled`, it keeps the focus
  const lanes = [...document.querySelectorAll(".lane")];
  lanes.forEach(clear);
  let said = "";
  try {
    for (const lane of lanes) {
      status.textContent = `${said}${lane.dataset.title}: the requests are under way …`;
      said += `${await run(lane)} `;
    }
    status.textContent = said;
    button.textContent = "Race again";
  } catch (error) {
    status.textContent = `The race stopped. ${error.message}`;
  }
  button.ariaDisabled = "false";
});
