// Runs before the page is drawn, so that it is never drawn in the wrong colours first. The colours are the system's, and
// follow it, until somebody chooses.
const systemDark = matchMedia("(prefers-color-scheme: dark)");
let chosenTheme = null;
try {
  chosenTheme = localStorage.getItem("lookalike:theme");
} catch {
  // Pages from disk may be forbidden to keep anything: the system's colours are used.
}

function chooseTheme(wanted) {
  chosenTheme = wanted;
  const known = wanted === "light" || wanted === "dark";
  document.documentElement.dataset.theme = known ? wanted : systemDark.matches ? "dark" : "light";
  document.dispatchEvent(new Event("lookalike:theme"));
}

chooseTheme(chosenTheme);
systemDark.addEventListener("change", () => chooseTheme(chosenTheme));
