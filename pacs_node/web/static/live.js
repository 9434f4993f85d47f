// Says so when the node no longer answers: what stands on the page may then be old.

const PATIENCE_MS = 5000;
const TOLD = "The node does not answer. What stands here may be old; it renews itself once the node answers.";

const banner = document.querySelector("#lost");
let timer = null;

function lost() {
  timer ??= setTimeout(() => { banner.textContent = TOLD; banner.hidden = false; }, PATIENCE_MS);
}

function found() {
  clearTimeout(timer);
  timer = null;
  banner.hidden = true;
}

document.body.addEventListener("htmx:sseError", lost);
document.body.addEventListener("htmx:sseOpen", found);
document.body.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (detail.successful) found();
  else if (detail.xhr.status === 0 || detail.xhr.status >= 500) lost();
});
