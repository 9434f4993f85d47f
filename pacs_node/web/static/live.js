// Shows a banner when the node no longer answers, because the page may then be outdated.

const PATIENCE_MS = 5000;
const MESSAGE = "The node does not answer. This page may be outdated; it refreshes itself once the node answers.";

const banner = document.querySelector("#lost");
let timer = null;

function lost() {
  timer ??= setTimeout(() => { banner.textContent = MESSAGE; banner.hidden = false; }, PATIENCE_MS);
}

function connected() {
  clearTimeout(timer);
  timer = null;
  banner.hidden = true;
}

document.body.addEventListener("htmx:sseError", lost);
document.body.addEventListener("htmx:sseOpen", connected);
document.body.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (detail.successful) connected();
  else if (detail.xhr.status === 0 || detail.xhr.status >= 500) lost();
});
